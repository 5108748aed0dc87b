"""`anysize completion SHELL`."""

import inspect
import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from anysize.cli import build_app, tell
from anysize.registry import UserError

SHELLS = ("bash", "zsh", "fish", "powershell")
_RECIPES = ("bench", "evaluate", "lr-find", "plan", "search", "train")
"""The verbs whose first word may be the name of a recipe."""

_BASH = """
# Names of recipes and of settings, which are too many for the help.
_anysize_with_names() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}"
  _anysize
  if [[ "$cur" == --* && " {settled} " == *" $verb "* ]]; then
    COMPREPLY+=($(compgen -W "{settings}" -- "$cur"))
  elif [[ $COMP_CWORD -eq 2 && " {named} " == *" $verb "* ]]; then
    COMPREPLY+=($(compgen -W "{recipes}" -- "$cur") $(compgen -f -- "$cur"))
  fi
}}

complete -F _anysize_with_names anysize
"""
_FISH = """
# Names of recipes and of settings, which are too many for the help.
complete -c anysize -n '__fish_seen_subcommand_from {named}' -a '{recipes}'
for setting in {settings}
    complete -c anysize -n '__fish_seen_subcommand_from {settled}' -l (string sub -s 3 -- $setting) -r
end
"""


def command(
    shell: Literal["", "bash", "zsh", "fish", "powershell"] = "",
    /,
    *,
    install: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print a script that lets the shell complete verbs and options; in bash and fish recipes and settings, too.

    Args:
        shell: by default the one of $SHELL
        install: write the script to where the shell looks for it, and have it loaded at its start, in place of printing
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UserError(f"the shell is {name!r}; give one of {', '.join(SHELLS)}, as in `anysize completion bash`")
    text = completion_script(name)
    if not install:
        print(text, end="")
        return
    path = build_app().install_completion(shell=name)  # type: ignore[arg-type]
    path.write_text(text, encoding="utf-8")
    tell(f"{path} is written; it counts in every {name} that starts from now on")


def completion_script(shell: str) -> str:
    """The script for a shell: what the command line tells of itself, and for bash and fish the names that it lacks."""
    from anysize.recipe import documented_settings
    from anysize.recipes import recipe_names

    app = build_app()
    text: str = app.generate_completion(prog_name="anysize", shell=shell)  # type: ignore[arg-type]
    more = {"bash": _BASH, "fish": _FISH}.get(shell, "")
    verbs = [name for name in app if not name.startswith("-")]
    commands = {name: app[name].default_command for name in verbs}
    settled = [name for name, do in commands.items() if do and "settings" in inspect.signature(do).parameters]
    return text + more.format(
        named=" ".join(_RECIPES),
        settled=" ".join(settled),
        recipes=" ".join(recipe_names()),
        settings=" ".join(f"--{row[0]}" for row in documented_settings()),
    )
