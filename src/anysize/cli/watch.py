"""`anysize watch [RUNS]`."""

import sys

from anysize.cli import tell


def command(*runs: str, host: str = "127.0.0.1", port: int = 5106, terminal: bool = False, every: float = 2.0) -> None:
    """Follow runs while they train: a page in the browser, or a table in the terminal.

    The page needs no network, and no other machine reaches it, unless --host says so. Runs may begin, stop, go on and
    be deleted meanwhile. Ctrl-C ends the watching, and no run.

    Args:
        runs: run folders, or folders of runs; by default runs
        host: the address of the page. 0.0.0.0 lets other machines see it, without a password
        port: the port of the page; 0: any that is free
        terminal: a table here in place of the page; once, where the output is no terminal
        every: seconds between two looks of the table
    """
    from anysize.registry import UserError
    from anysize.reports.live import Watched, check_paths

    watched = Watched(check_paths(runs))
    if not 0.1 <= every <= 3600:
        raise UserError(f"--every is {every:g}; expected from 0.1 to 3,600 seconds")
    try:
        if terminal:
            from anysize.reports.live_terminal import watch

            watch(watched, every)
            return
        from anysize.reports.live_server import LiveServer

        server = LiveServer(watched, host, port)
        tell(f"the page is {server.url} (Ctrl-C ends it)")
        if not server.local:
            tell(f"warning: whoever reaches {host} sees the runs; there is no password")
        sys.stdout.flush()  # into a file or a pipe, too: whoever started this waits for it
        try:
            server.run()
        finally:
            server.stop()
    except KeyboardInterrupt:
        tell("stopped watching; the runs go on")
