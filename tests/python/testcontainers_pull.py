"""A test with Testcontainers whose image is nowhere but in a registry: the first argument."""

import sys

from testcontainers.core.container import DockerContainer

with DockerContainer(sys.argv[1]).with_command("sleep 600") as container:
    print(container.exec(["echo", "inside"]).output.decode(), end="")
