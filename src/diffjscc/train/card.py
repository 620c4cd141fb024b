# SPDX-License-Identifier: GPL-3.0-or-later
"""The model card of a training, written from the run itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from .dataset import HELD_OUT_EVERY
from .recipes import as_yaml

if TYPE_CHECKING:
    from .run import Run


def text(run: Run) -> str:
    """What was trained, on which images, by which recipe and revision, for how long, and how good it is."""
    recipe = run.recipe
    scores = "\n".join(f"| {name} | {value:.3f} |" for name, value in run.scores.items())
    processes = run.accelerator.num_processes
    return f"""# {run.folder.path.resolve().name}

Trained by gr-diffjscc {revision()}: a {recipe.kind}, {run.step} of {recipe.steps} steps.

**Data.** {_data(run)}

**Time.** {run.seconds / 3600:.2f} hours of training on {processes} × {run.device.type}, precision {recipe.precision}.

**Held-out figures.**

| measure | value |
|---|---|
{scores}

**Recipe.** `diffjscc train recipe.yaml --data … --out …`, with this file:

```yaml
{as_yaml(recipe).strip()}
```
"""


def _data(run: Run) -> str:
    count, held_out = len(run.training) + len(run.held_out), len(run.held_out)
    folders = ", ".join(f"`{folder.resolve().name}`" for folder in run.data)
    lines = [f"{count} images of {folders}; every {HELD_OUT_EVERY}th, {held_out} in all, was held out."]
    if run.unreadable:
        lines.append(f"{len(run.unreadable)} could not be read and were passed over.")
    return " ".join(lines) + "".join(_sources(folder) for folder in run.data)


def _sources(folder: Path) -> str:
    """What the folder says of its images' sources and licences, in its own README.md."""
    readme, name = folder / "README.md", folder.resolve().name
    if not readme.is_file():
        return f" Credits: CREDITS.csv in `{name}`." if (folder / "CREDITS.csv").is_file() else ""
    said = readme.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    # As a quotation, in which headings are plain lines.
    return f"\n\nOf `{name}` its README.md says:\n\n" + "\n".join(f"> {line.lstrip('# ')}".rstrip() for line in said)


def revision() -> str:
    """The package's version, and the commit where it runs from a checkout."""
    root = Path(__file__).parents[3]
    # Installed, the package may lie in some other project's checkout.
    if not (root / "src" / "diffjscc").is_dir():
        return __version__
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return f"{__version__} ({described})" if described else __version__
