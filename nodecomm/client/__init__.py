# SPDX-License-Identifier: MIT
"""
Asking a server: connecting, deciding whose key that is, requests in a pipeline.
"""
