"""The page with which a browser has its own NAT tested: no STUN server, no plug-in, no permission asked.

A page cannot send datagrams, but its RTCPeerConnections send ICE checks (RFC 8445 §7) to whatever candidates they are
given, and answer checks from anybody who knows their credentials. So the reflector plays the other agent: it sees the
source of each check, and an answer to a check of its own proves that the check came in through the NAT.

`ice` is the wire, `peer` one peer connection, `trials` the tests, `session` their order and the report; all of it is
pure. `server` has the sockets and the HTTP. The conclusions are drawn by `natprobe.inference`, as everywhere.
"""
