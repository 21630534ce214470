// The same step under the name that it was first published with. See setupRemoteDocker.

def call(Map options = [:], Closure body) {
    setupRemoteDocker(options, body)
}

def start(Map options = [:]) {
    return setupRemoteDocker.start(options)
}

def stop(Map lease) {
    setupRemoteDocker.stop(lease)
}
