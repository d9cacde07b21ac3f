"""Sightflow as a service, in processes of its own: Prefect server, bridge and worker, and a bucket that notifies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx

from sightflow.infra.prefect_server import PrefectServer

ROOT = Path(__file__).parents[2]


class Notifying:
    """A bucket whose uploads are told to an SQS queue, both on moto's server."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint, self.name = endpoint, name
        self.s3 = boto3.client("s3", endpoint_url=endpoint)
        self.sqs = boto3.client("sqs", endpoint_url=endpoint)
        self.s3.create_bucket(Bucket=name)
        self.queue = self.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "20"})["QueueUrl"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]
        told = {"QueueArn": attributes["QueueArn"], "Events": ["s3:ObjectCreated:*"]}
        self.s3.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration={"QueueConfigurations": [told]}
        )

    def put(self, key: str, content: bytes) -> str:
        self.s3.put_object(Bucket=self.name, Key=key, Body=content)
        return f"s3://{self.name}/{key}"

    def say(self, body: str) -> None:
        """Send a message as if the bucket had."""
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def waiting(self) -> int:
        """How many messages are in the queue, those that somebody has received included."""
        return depth(self.sqs, self.queue)


class Service:
    """Starts, kills and starts again what runs a spec; `log(name)` is what a part has printed.

    Without a server, each part has to see to its own.
    """

    def __init__(self, folder: Path, server: PrefectServer | None, **environment: str) -> None:
        self.folder, self.server = folder, server
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
        own = server.client_environment if server else {}
        self.environment = {**bare, "PYTHONPATH": str(ROOT), **own, **environment}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start `sightflow COMMAND` with the stand-in for a model."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.stand_in_cli", *command],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def run(self, *command: str) -> str:
        """Run `sightflow COMMAND` to its end, which must be a good one."""
        arguments = [sys.executable, "-m", "tests.stand_in_cli", *command]
        done = subprocess.run(arguments, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def trigger(self, deployment: str) -> None:
        """Start a run of a deployment, as a button in the UI does."""
        (found,) = self._post("deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        self._post(f"deployments/{found['id']}/create_flow_run", {})

    def set_state(self, run: str, state: str) -> None:
        self._post(f"flow_runs/{run}/set_state", {"state": {"type": state}})

    def _post(self, path: str, asked: dict[str, Any]) -> Any:
        """Ask the server, again while it says that it cannot now, as Prefect's own client does."""
        assert self.server is not None
        patience = time.monotonic() + 60
        while True:
            url = f"{self.server.api_url}/{path}"
            answer = httpx.post(url, json=asked, timeout=30, auth=self.server.credentials)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > patience:
                return answer.raise_for_status().json()
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.processes[name].send_signal(number)
        return self.ended(name)

    def ended(self, name: str) -> int:
        """Wait for a part's end; return the exit status."""
        return self.processes.pop(name).wait(timeout=60)

    def stop(self) -> None:
        for name in list(self.processes):
            if self.processes[name].poll() is None:
                self.kill(name)

    def runs(self, deployment: str | None = None) -> list[dict[str, Any]]:
        """The flow runs on the server, oldest first."""
        asked: dict[str, Any] = {"sort": "START_TIME_ASC", "limit": 200}
        if deployment:
            asked["deployments"] = {"name": {"any_": [deployment]}}
        return list(self._post("flow_runs/filter", asked))


def depth(sqs: Any, queue: str) -> int:
    """How many messages a queue holds, those that somebody has received included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)


@contextmanager
def service(folder: Path, server: PrefectServer | None, **environment: str) -> Iterator[Service]:
    started = Service(folder, server, **environment)
    try:
        yield started
    finally:
        started.stop()


def until(happened: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something that must happen."""
    patience = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < patience, f"{what}: it did not happen in {seconds:g} s"
        time.sleep(0.1)
