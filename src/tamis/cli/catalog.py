"""``tamis methods`` and ``tamis claims``."""

from __future__ import annotations

from tamis.cli.screen import say, table


def methods(word: str = "", *, planned: bool = False) -> None:
    """List the methods that are here, or everything about those that a word names.

    Args:
        word: part of a name, family or title.
        planned: list the titles that are still to come instead; they are not here.
    """
    from tamis.method import read_catalog
    from tamis.planned import PLANNED

    entries = read_catalog()
    if planned:
        here = {e.name for e in entries}
        missing = [[family, name, title] for family, name, title in PLANNED if name not in here]
        say(f"{len(missing)} methods are planned and not here:")
        say(table(missing))
        return
    found = [e for e in entries if word.lower() in f"{e.name} {e.family} {e.method.title}".lower()]
    if not found:
        raise ValueError(f"no method matches {word!r}: `tamis methods` lists those that are here.")
    say(
        table(
            [[e.family, e.name, e.status, e.method.title] for e in found], header=("family", "method", "claim", "title")
        )
    )
    if word and len(found) == 1:
        entry = found[0]
        say()
        say(table([["paper", f"{entry.method.paper} ({entry.method.year})"], ["code", str(entry.path)],
                   ["test", f"tests/{entry.family}/test_{entry.name}.py"],
                   ["claim", f"claims/{entry.family}/{entry.name}.py: {entry.method.claim}"],
                   ["result", f"claims/results/{entry.name}.json: {entry.status}"]]))  # fmt: skip


def claims(name: str = "", *, seeds: int | None = None, run: bool = False) -> None:
    """Run the claim of a method again and write its result; without a name, list what the committed results say.

    Args:
        name: of a method.
        seeds: fewer seeds for a quick look; then nothing is written.
        run: with no name, run every claim.
    """
    from tamis import claim
    from tamis.method import status_of

    if not name and not run:
        rows = [[path.parent.name, path.stem, status_of(path.stem)] for path in claim.find_scripts()]
        say(table(rows, header=("family", "claim", "status")))
        return
    for path in claim.find_scripts(name or None):
        result = claim.run_script(path, seeds=seeds)
        low, high = result["interval"]
        say(
            f"{path.stem}: {result['status']}. {result['metric']}: {result['method']} - {result['baseline']} = "
            f"{result['mean_difference']:+.4f} ({low:+.4f} to {high:+.4f}), at least {result['at_least']:+.4f} asked, "
            f"{result['wins']} of {result['seeds']} seeds won, {result['seconds']} s"
        )
        say(table([[f"{key}", f"{value:.4f}"] for key, value in result["means"].items()]))
        for gate in result["gates"]:
            say(f"  {'met' if gate['met'] else 'NOT met'}: {gate['says']} (measured {gate['measured']:+.4f})")
