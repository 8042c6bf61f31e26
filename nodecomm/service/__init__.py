# SPDX-License-Identifier: MIT
"""
Configuration files, services and the twistd plugins.
"""
