"""How many TCP connections this host holds from ONE local address and port, and what the NAT makes of them.

    from natprobe.reuse import hold
    holding = await hold(["198.51.100.10"], connections=1000)

The servers are natprobe's reflectors, with ``--destinations`` for more than a few; of any other server it asks little.
"""

from natprobe.reuse.run import hold

__all__ = ["hold"]
