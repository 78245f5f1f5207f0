"""A second, simple parser of expositions. The tests compare the page's numbers with it."""

import re
from collections import defaultdict
from urllib.parse import quote

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
UNESCAPED = {"n": "\n", "\\": "\\", '"': '"'}
PLACE = ("namespace", "pod", "container", "comm", "pid", "path", "kind")


class Exposition:
    def __init__(self, text):
        self.families, self.help = defaultdict(list), {}
        for line in text.split("\n"):
            if line.startswith("# HELP "):
                _, _, name, self.help[name] = line.split(" ", 3)
            elif line and not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                labels = {
                    k: re.sub(r"\\(.)", lambda m: UNESCAPED[m[1]], v) for k, v in LABEL.findall(labels or "")
                }
                self.families[name].append((labels, float(value)))

    def metrics(self):
        """Returns the metrics of the smaps fields: short name -> metric."""
        names = [name for name in self.families if name.startswith("process_smaps_")]
        return {re.sub("_bytes$", "", name.removeprefix("process_smaps_")): name for name in names}

    def value(self, name):
        ((_, value),) = self.families[name]
        return value

    def total(self, field, **place):
        """Returns the sum of a field over the series that have these labels.

        If the field is a page size, returns the maximum instead.
        """
        if field == "uss":
            return self.total("private_clean", **place) + self.total("private_dirty", **place)
        values = [
            value for labels, value in self.families[self.metrics()[field]] if place.items() <= labels.items()
        ]
        return max(values) if field.endswith("page_size") else sum(values)

    def has(self, field, **place):
        """Returns whether a field has samples with these labels."""
        names = ("private_clean", "private_dirty") if field == "uss" else (field,)
        return any(
            place.items() <= labels.items()
            for name in names
            for labels, _ in self.families[self.metrics()[name]]
        )

    def by_pod(self, field, path):
        """Returns the sum of a field for one path in each pod: {(namespace, pod): sum}."""
        sums = defaultdict(float)
        for labels, value in self.families[self.metrics()[field]]:
            if labels["path"] == path:
                sums[labels["namespace"], labels["pod"]] += value
        return dict(sums)

    def children(self, field, **place):
        """Returns [(labels, sum)] for one level below these labels, such as the containers of a pod.

        The largest sum comes first.
        """
        level = len(place)
        sums = defaultdict(float)
        for labels, value in self.families[self.metrics()[field]]:
            if place.items() <= labels.items():
                keys = [key for key in PLACE if key in labels]
                take = keys[: 2 if level == 0 else level + 1]
                sums[tuple((key, labels[key]) for key in take)] += value
        return sorted(((dict(key), value) for key, value in sums.items()), key=lambda row: -row[1])


def fragment(place):
    """Returns the fragment of the page's address that opens the pod, container or path with these labels."""
    return "#/" + "/".join(quote(place[key], safe="!~*'()") for key in PLACE if key in place)
