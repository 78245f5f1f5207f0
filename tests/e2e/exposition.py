"""A strict parser of the Prometheus text format. On unexpected input, an assertion fails."""

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(
    rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)?\}})? (NaN|[+-]Inf|[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)"
)
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    kind: str
    samples: dict[Labels, float] = field(default_factory=dict)


class Exposition(dict[str, Family]):
    """The families of an exposition, by name."""

    def __init__(self, text: str):
        assert text.endswith("\n"), "the last line does not end in a newline"
        name = None
        helped = None
        for line in text.removesuffix("\n").split("\n"):
            if match := re.fullmatch(rf"# HELP ({_NAME}) \S.*", line):
                helped = match[1]
                assert helped not in self, f"family {helped} occurs twice"
            elif match := re.fullmatch(rf"# TYPE ({_NAME}) (gauge|counter)", line):
                name = match[1]
                assert name == helped, f"the TYPE line of {name} follows the HELP line of {helped}"
                self[name] = Family(match[2])
            else:
                match = _SAMPLE.fullmatch(line)
                assert match, f"not a valid exposition line: {line!r}"
                assert match[1] == name, f"a sample of {match[1]} stands among those of {name}"
                pairs = re.findall(_LABEL, match[2] or "")
                labels = tuple(
                    (key, re.sub(r'\\[\\"n]', lambda escape: _UNESCAPED[escape[0]], value))
                    for key, value in pairs
                )
                assert labels not in self[name].samples, f"the series occurs twice: {line!r}"
                self[name].samples[labels] = float(match[match.lastindex])

    def value(self, name: str) -> float:
        """Returns the value of a family that has only one sample."""
        (value,) = self[name].samples.values()
        return value

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Returns the sums of a family for each combination of values of these labels."""
        sums: dict[tuple[str, ...], float] = {}
        for series, value in self[name].samples.items():
            key = tuple(dict(series)[label] for label in labels)
            sums[key] = sums.get(key, 0) + value
        return sums


def smaps_lines(text: str) -> list[str]:
    """Returns the lines of the process_smaps_* families.

    The order is fixed, so the same processes give the same lines.
    """
    return [line for line in text.splitlines() if re.match(r"(# (HELP|TYPE) )?process_smaps_", line)]


def comms(exposition: Exposition) -> dict[str, float]:
    """Returns the number of processes of each command."""
    family = "process_smaps_processes"
    return {comm: n for (comm,), n in exposition.by(family, "comm").items()} if family in exposition else {}


def errors(exposition: Exposition) -> dict[str, int]:
    """Returns the number of failed reads for each reason."""
    counts = exposition.by("smaps_exporter_read_errors_total", "reason")
    return {reason: int(n) for (reason,), n in counts.items()}


def errors_without_gone(exposition: Exposition) -> dict[str, int]:
    """Returns the number of failed reads for each reason other than "gone".

    A read fails with the reason "gone" if the process has ended. Tests cannot prevent such failures, because
    the exporter reads a file of each process on the machine, and any process may end meanwhile.
    """
    return {reason: n for reason, n in errors(exposition).items() if n and reason != "gone"}
