"""The meeting of the processes of a program before JAX connects them.

Process 0 listens where JAX's coordinator will listen later, hears who comes and tells
everybody how it stands, until all are there or the time is up. Each process sends the
line `mimjax SIZE INDEX NAME`; process 0 answers with any number of lines `so far TEXT`
and ends with `go` or `stop TEXT`.
"""

import contextlib
import dataclasses
import socket
import sys
import time

# Seconds between two reports.
SAY_EVERY = 5.0

Guests = dict[int, tuple[socket.socket, str]]
"""Who came, by index: the connection and the name of the host."""


class JoinError(Exception):
    """The processes did not come together; one line says why."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where process 0 is, how many processes there are, and which this one is."""

    host: str
    port: int
    size: int
    index: int


def say(line: str) -> None:
    """One line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def meet(place: Place, limit: float) -> None:
    """Returns in every process once all have come.

    Raises:
        JoinError: not within `limit` seconds.
    """
    if place.index > 0:
        visit(place, limit)
        return
    guests: Guests = {}
    try:
        gather(place, limit, guests)
        tell(guests, "go")
        say(count(place, guests))
    except JoinError as error:
        tell(guests, f"stop {error}")
        raise
    finally:
        for guest, _ in guests.values():
            guest.close()


def gather(place: Place, limit: float, guests: Guests) -> None:
    """Process 0: fills `guests` by index until all are there."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        listener = socket.create_server(
            ("", place.port), family=family, dualstack_ipv6=dual, backlog=512
        )
    except OSError as error:
        raise JoinError(
            f"--distributed: cannot listen on port {place.port} of this host "
            f"({error.strerror}); free it or choose another"
        ) from error
    start, said = time.monotonic(), 0.0
    with listener:
        while len(guests) + 1 < place.size:
            passed = time.monotonic() - start
            if passed >= limit:
                raise JoinError(f"{count(place, guests)}, after {limit:g} s")
            if passed - said >= SAY_EVERY:
                said = passed
                say(count(place, guests))
                tell(guests, f"so far {count(place, guests)}")
            listener.settimeout(min(SAY_EVERY, limit - passed))
            with contextlib.suppress(TimeoutError):
                welcome(listener.accept()[0], place, guests)


def welcome(guest: socket.socket, place: Place, guests: Guests) -> None:
    """Enters a process under its index; who comes again replaces itself."""
    guest.settimeout(2)
    try:
        hello, total, index, name = read_line(guest).split(" ", 3)
        total, index = int(total), int(index)
    except (OSError, ValueError):
        hello, total, index, name = "", 0, 0, ""
    if hello != "mimjax":
        guest.close()
        return
    if index in guests:
        guests[index][0].close()
    guests[index] = (guest, name)
    if total != place.size or not 0 < index < total:
        raise JoinError(
            f"--distributed: {name} is process {index} of {total}, but "
            f"{socket.gethostname()} is process 0 of {place.size}"
        )


def count(place: Place, guests: Guests) -> str:
    """n of m hosts joined, and which are missing."""
    line = f"{len(guests) + 1} of {place.size} hosts joined"
    missing = [str(i) for i in range(1, place.size) if i not in guests]
    if not missing:
        return line
    names = [f"0 ({socket.gethostname()})"]
    names += [f"{i} ({guests[i][1]})" for i in sorted(guests)]
    return f"{line}; missing: {first(missing)}; here: {first(names)}"


def first(words: list[str], most: int = 8) -> str:
    """The first few of a long list."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def tell(guests: Guests, line: str) -> None:
    """A line to everybody who came; JAX finds out who has gone since."""
    for guest, _ in guests.values():
        with contextlib.suppress(OSError):
            guest.sendall(f"{line}\n".encode())


def visit(place: Place, limit: float) -> None:
    """Any other process: goes to process 0 and waits for its word."""
    start, reason = time.monotonic(), ""
    while (left := limit - (time.monotonic() - start)) > 0:
        try:
            address = (place.host.strip("[]"), place.port)
            with socket.create_connection(address, timeout=left) as host:
                name = socket.gethostname()
                host.sendall(f"mimjax {place.size} {place.index} {name}\n".encode())
                host.settimeout(3 * SAY_EVERY)
                while (line := read_line(host)).startswith("so far "):
                    say(line.removeprefix("so far "))
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.2)
            continue
        if line == "go":
            return
        raise JoinError(line.removeprefix("stop "))
    raise JoinError(
        f"process {place.index} of {place.size} cannot reach process 0 at "
        f"{place.host}:{place.port} after {limit:g} s ({reason}); is it running, "
        "and is the port open between the hosts?"
    )


def read_line(end: socket.socket) -> str:
    """What comes up to a newline; OSError where it ends before or is no greeting."""
    line = b""
    while not line.endswith(b"\n"):
        byte = end.recv(1)
        if not byte or len(line) > 2000:
            raise OSError("hung up")
        line += byte
    return line.decode(errors="replace").rstrip("\n")
