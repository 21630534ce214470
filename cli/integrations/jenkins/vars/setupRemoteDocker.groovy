// A Docker daemon of its own for a part of a pipeline, on a fresh virtual machine. What the options mean
// stands in setupRemoteDocker.txt, which Jenkins shows as this step's help.
//
// Jenkins writes to disk whatever a pipeline holds while a step runs, so nothing here holds more than
// strings, lists and maps over a step. What needs other objects is marked @NonCPS and calls no step.

import com.cloudbees.groovy.cps.NonCPS

/** Leases a machine for `body`, and gives it back however the body ends. */
def call(Map options = [:], Closure body) {
    def lease = start(options)
    try {
        withEnv(lease.env) {
            body()
        }
    } finally {
        stop(lease)
    }
}

/**
 * Leases a machine. Answers a map: `id`, `host`, `expiresAt`, and `env`, a list for `withEnv`. Whoever
 * calls this hands it to `stop` in the end, in a `finally`.
 */
def start(Map options = [:]) {
    def unknown = unknownOptions(options)
    if (unknown) {
        error("setupRemoteDocker: ${unknown}")
    }
    if (!isUnix()) {
        error('setupRemoteDocker: the client runs on Linux agents only')
    }
    // Beside the workspace and not in it: keys are no artifacts. Each lease has one of its own, so that
    // what lies there tells what is to be given back, however far a build came.
    def lease = clientOptions(options) + [folder: "${pwd(tmp: true)}/remote-docker-${UUID.randomUUID()}".toString()]
    try {
        withServer(lease) {
            sh(label: 'Prepare for a Docker machine', script: "umask 077 && mkdir -p ${quoted(lease.folder)}")
            lease += parsed(sh(
                label: 'Lease a Docker machine',
                returnStdout: true,
                script: "${quoted(lease.cli)} start --format json${flags(options, env.BUILD_TAG)}"
            ))
        }
    } catch (failure) {
        stop(lease)
        throw failure
    }
    return lease
}

/** Gives a machine back. May be called again. A failure is told, and does not hide the build's own. */
def stop(Map lease) {
    if (!lease?.folder) {
        error('setupRemoteDocker.stop takes what setupRemoteDocker.start answered')
    }
    try {
        withServer(lease) {
            sh(label: 'Give the Docker machine back', script: giveBack(lease.cli, lease.folder))
        }
    } catch (InterruptedException aborted) {
        throw aborted
    } catch (failure) {
        echo "setupRemoteDocker: the machine is not given back and goes when its time is over: ${failure.message}"
    }
}

/** Runs `body` with what the client needs to find the server, to be let in, and to keep the keys. */
def withServer(Map lease, Closure body) {
    def variables = ["XDG_RUNTIME_DIR=${lease.folder}".toString()]
    if (lease.url) {
        variables << "REMOTE_DOCKER_URL=${lease.url}".toString()
    }
    if (lease.ca) {
        variables << "REMOTE_DOCKER_CA=${lease.ca}".toString()
    }
    withEnv(variables) {
        if (lease.credentialsId) {
            withCredentials([string(credentialsId: lease.credentialsId, variable: 'REMOTE_DOCKER_TOKEN')]) {
                body()
            }
        } else {
            body()
        }
    }
}

/** What is wrong with the names of the options, if anything: a typing mistake is no setting. */
@NonCPS
static String unknownOptions(Map options) {
    def known = ['ca', 'cli', 'credentialsId', 'egress', 'engine', 'idle', 'labels', 'size', 'ttl', 'url', 'wait']
    def unknown = options.keySet().collect { it.toString() } - known
    return unknown ? "there is no option ${unknown.join(', ')}; there are ${known.join(', ')}" : null
}

@NonCPS
static Map clientOptions(Map options) {
    return [
        cli: (options.cli ?: 'setup-remote-docker').toString(),
        url: options.url?.toString(),
        ca: options.ca?.toString(),
        credentialsId: options.credentialsId?.toString(),
    ]
}

/** The words after `start`. The build's name goes with the lease, so that lists tell whose it is. */
@NonCPS
static String flags(Map options, String build) {
    def words = ['engine', 'size', 'ttl', 'idle', 'egress', 'wait']
        .findAll { options[it] != null }
        .collect { "--${it}=${options[it]}" }
    def labels = (build ? [jenkins: build] : [:]) + (options.labels ?: [:])
    words.addAll(labels.collect { key, value -> "--label=${key}=${value}" })
    return words.collect { ' ' + quoted(it.toString()) }.join('')
}

/** One word for a shell, whatever is in it. */
@NonCPS
static String quoted(String word) {
    return "'" + word.replace("'", "'\\''") + "'"
}

@NonCPS
static String giveBack(String cli, String folder) {
    return """set +x
failed=0
for lease in ${quoted(folder)}/setup-remote-docker/l-*; do
    if [ -d "\$lease" ]; then
        ${quoted(cli)} stop --quiet "\${lease##*/}" >/dev/null || failed=1
    fi
done
rm -rf ${quoted(folder)}
exit \$failed
"""
}

@NonCPS
static Map parsed(String answer) {
    def told = new groovy.json.JsonSlurperClassic().parseText(answer)
    return [
        id: told.lease_id,
        host: told.docker_host,
        expiresAt: told.expires_at,
        env: told.environment.collect { name, value -> "${name}=${value}".toString() },
    ]
}
