"""The exceptions that natprobe raises.

    NatprobeError
    ├── CannotRun             this host, now: nothing could be measured
    │   ├── NameNotFound      a server's name has no usable address
    │   ├── NoRoute           no route to a server, or no address of its family here
    │   ├── AddressBusy       no socket with that local endpoint: in use, not this host's, no port or descriptor left
    │   ├── NoServerAnswered  every server was silent or refused
    │   └── LabUnavailable    the lab's substrate is missing here; says what to install
    ├── MalformedMessage      bytes that are no STUN message, with offset and reason
    ├── MalformedReport       a file that is no natprobe report
    └── PolicyNotPossible     no such NAT can be built on this substrate

Misuse of the API is a ValueError or TypeError. A strange network is no error at all: it is an observation.
"""

OWN_FIREWALL = "this host's own firewall rejects it"
"""The reason of a Rejection that did not come from the network: what was sent never left this host."""
NOT_SENT = "this host cannot send to it"
"""How the reason of any other Rejection begins whose author is this host; the system's words follow."""


class NatprobeError(Exception):
    """The root. Its text is one line, fit for a user."""


class CannotRun(NatprobeError):
    """Nothing could be measured; the text says what is in the way.

    ``advice`` says what to do about it, where the text does not and the kind of error alone does not tell.
    """

    def __init__(self, text: str = "", advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice


class NameNotFound(CannotRun):
    """A server's name could not be resolved to an address of the family asked for."""


class NoRoute(CannotRun):
    """This host has no route, or no address, for the family asked for."""


class AddressBusy(CannotRun):
    """No socket with that local endpoint can be had: it is in use, not this host's, or a limit is reached."""


class NoServerAnswered(CannotRun):
    """Not one server answered, over any protocol that was tried."""


class LabUnavailable(CannotRun):
    """The lab cannot be built here; the text names what is missing."""


class MalformedMessage(NatprobeError):
    """Bytes that are not a STUN message (RFC 8489 §6.3): why, and at which offset."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.offset = offset
        self.reason = reason


class MalformedReport(NatprobeError):
    """A file that is not a report of a version that this natprobe reads."""


class PolicyNotPossible(NatprobeError):
    """The substrate asked for cannot make such a NAT; the text says which part of the policy it is."""
