"""A PostgreSQL of the tests' own for Prefect's servers: `python -m tests.postgres PYTEST-ARGUMENTS`.

It runs from a temporary folder, listens on loopback alone, asks for a random password, and ends with the tests. Each
Prefect server that a test starts meanwhile has a database of its own in it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightflow.infra.loopback import free_port
from sightflow.infra.server_process import end_with_parent

URL = "SIGHTFLOW_TEST_POSTGRES"
"""The variable that names it: `postgresql://user:password@host:port`, without a database."""
_INSTALL = "PostgreSQL's server is not installed: on Debian and Ubuntu, apt-get install postgresql"


def own_database() -> str | None:
    """A new database, as Prefect takes it; None where the tests run on SQLite."""
    if not (server := os.environ.get(URL)):
        return None
    name = f"prefect_{secrets.token_hex(6)}"
    asyncio.run(_query(f"{server}/postgres", f"CREATE DATABASE {name}"))
    return f"{server.replace('postgresql://', 'postgresql+asyncpg://')}/{name}"


async def _query(database: str, sql: str) -> list[tuple[object, ...]]:
    import asyncpg

    connection = await asyncpg.connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


@contextmanager
def postgres() -> Iterator[str]:
    """A server, by the URL that `own_database` looks for. Raises FileNotFoundError that says how to install one."""
    programs, user = _programs(), _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="sightflow-postgres-") as folder:
        password, port, data = secrets.token_urlsafe(16), free_port(), Path(folder) / "data"
        secret = Path(folder) / "password"
        secret.write_text(password)
        if user:
            for path in (Path(folder), secret):
                shutil.chown(path, user)

        def command(name: str, *arguments: str) -> dict[str, Any]:
            return {"args": [str(programs / name), *arguments], "user": user, "cwd": folder}

        options = ["--username=prefect", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        made = subprocess.run(**command("initdb", f"--pgdata={data}", *options), capture_output=True, text=True)
        if made.returncode:
            sys.exit(made.stdout + made.stderr)
        settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "max_connections=300"]
        arguments = [word for setting in settings for word in ("-c", setting)]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                **command("postgres", "-D", str(data), *arguments), stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        try:
            ready = command("pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet")
            patience = time.monotonic() + 60
            while subprocess.run(**ready).returncode:
                if server.poll() is not None or time.monotonic() > patience:
                    sys.exit((Path(folder) / "log").read_text(errors="replace"))
                time.sleep(0.1)
            yield f"postgresql://prefect:{password}@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once; nobody needs what it holds
            server.wait()


def _programs() -> Path:
    """Where initdb and pg_ctl are: in the path, or where Debian puts them, of the newest version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise FileNotFoundError(_INSTALL)
    return versions[-1].parent


def _unprivileged_user() -> str | None:
    """Who runs the server, which root may not; None for this user."""
    if os.geteuid():
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def main(arguments: list[str]) -> int:
    try:
        with postgres() as server:
            began = time.monotonic()
            tests = subprocess.run(
                [sys.executable, "-m", "pytest", *arguments], env={**os.environ, URL: server}
            ).returncode
            seconds = time.monotonic() - began
            ((version,),) = asyncio.run(_query(f"{server}/postgres", "SHOW server_version"))
            names = asyncio.run(
                _query(f"{server}/postgres", "SELECT datname FROM pg_database WHERE datname ~ '^prefect_'")
            )
            runs = 0
            for (name,) in names:
                ((count,),) = asyncio.run(_query(f"{server}/{name}", "SELECT count(*) FROM flow_run"))
                runs += int(str(count))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"PostgreSQL {version}: {runs} flow runs in {len(names)} databases, {seconds:.0f} s")
    return tests or (0 if runs else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
