"""`anysize new FOLDER`."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from anysize.cli import tell


def command(
    folder: str,
    /,
    *,
    out: str = "",
    task: Literal["", "classification", "multilabel", "segmentation"] = "",
    from_scratch: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Look at a folder of your own images, and write a recipe for it, which `anysize train FILE` runs as it stands.

    Nothing is downloaded; the file says where a training will be by weights that are.

    Args:
        folder: with a folder a class, labels in CSV files, masks, COCO's, VOC's or a pack's files
            (docs/guides/your-own-images.md); or a tar archive
        out: the recipe's file; by default the folder's name with .toml, here
        task: what to learn, where the folder offers several, as COCO's does
        from_scratch: start from chance in place of published weights
        force: replace the file if it is there
    """
    from anysize.experiment.build import default_run_folder
    from anysize.experiment.new import propose, write_proposal

    name = Path(folder).expanduser().absolute().name.removesuffix(".tar")
    path = Path(out or (re.sub(r"[^\w-]+", "-", name).strip("-") or "images") + ".toml")
    proposal = propose(folder, task=task, pretrained=not from_scratch)
    write_proposal(proposal, path, overwrite=force)
    recipe = proposal.recipe
    tell(proposal.counts())
    tell(proposal.sides())
    if proposal.found.splits:
        tell(proposal.found.splits)
    tell(
        f"{path} is written: {recipe.model.name} at {recipe.sizes.base} px ({recipe.sizes.mix}), batches of "
        f"{recipe.training.batch_size}, {recipe.training.epochs} epochs; {proposal.spent()}"
    )
    if proposal.pretrained:
        tell(
            "it starts from published weights, which the first training downloads; without a network give "
            "--from-scratch, or a file as model.weights"
        )
    root, file = shlex.quote(recipe.data.root), shlex.quote(str(path))
    tell("next:")
    tell(f"  anysize data check {recipe.data.name} --data.root {root}")
    tell(f"  anysize train {file} --fast-dev-run")
    tell(f"  anysize train {file}")
    tell(f"  anysize evaluate {shlex.quote(str(default_run_folder(str(path), {})))}")
