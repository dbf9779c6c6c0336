"""The server that clients probe against: pure rules, fixed-size budgets, and the asyncio shell around both."""

from natprobe.reflector.server import Reflector, serve

__all__ = ["Reflector", "serve"]
