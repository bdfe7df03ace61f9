"""Run the claims whose script or method changed since the branch point or the last commit, and compare the status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tamis.claim import find_scripts, run_script
from tamis.method import status_of


def changed() -> set[str]:
    """Files that differ from the commit before."""
    done = subprocess.run(["git", "diff", "--name-only", "HEAD~1"], capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def main() -> int:
    """Run, compare, and say."""
    root = Path.cwd()
    files = changed()
    failed = 0
    for script in find_scripts(root=root / "claims"):
        method = f"src/tamis/{script.parent.name}/{script.stem}.py"
        if not files & {str(script.relative_to(root)), method}:
            continue
        result = run_script(script, write=False)
        committed = status_of(script.stem, root / "claims")
        print(f"claim {script.stem}: {result['status']} (committed: {committed}), {result['seconds']} s", flush=True)
        failed += result["status"] != committed
    return failed


if __name__ == "__main__":
    sys.exit(main())
