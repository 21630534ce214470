"""A test with Testcontainers that is killed before it can take its container away."""

import os
import signal

from testcontainers.core.container import DockerContainer

container = DockerContainer("busybox").with_command("sleep 600").start()
print(container.exec(["echo", "inside"]).output.decode(), end="", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
