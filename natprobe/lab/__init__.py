"""The lab: NATs of known behaviour, in network namespaces, in containers and in memory.

`policy` says how a NAT shall behave and what a report on it must say; everything else makes such NATs.
"""
