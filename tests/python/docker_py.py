"""What a user of docker-py does: builds an image from the folder in the first argument and works with it."""

import sys

import docker

client = docker.from_env()
assert client.ping()

image, said = client.images.build(path=sys.argv[1], tag="built", rm=True)
steps = "".join(line.get("stream", "") for line in said)
assert "Successfully built" in steps, steps

print(client.containers.run("built", ["echo", "run"], remove=True).decode(), end="")

container = client.containers.run(
    "built", ["sh", "-c", "cat /made; echo err >&2; exit 3"], detach=True
)
assert container.wait()["StatusCode"] == 3
print(container.logs(stdout=True, stderr=False).decode(), end="")
print(container.logs(stdout=False, stderr=True).decode(), end="")

container.remove()
assert client.containers.list(all=True) == []
client.images.remove("built")
try:
    client.images.get("built")
except docker.errors.ImageNotFound:
    print("removed")
