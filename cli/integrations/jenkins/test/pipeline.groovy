// Runs a pipeline script with the steps of this library outside Jenkins: a stand-in for the few steps of
// Jenkins that they use, true to what matters here (environment, exit codes, credentials, aborts, and that
// whatever is kept over a step can be written to disk).
//
//   groovy -cp stubs pipeline.groovy VARS_FOLDER PIPELINE TEMPORARY_FOLDER
//
// The credential `token` is what SECRET_TOKEN holds. Exits with 0 when the pipeline ends well, with 1 when
// it fails, with 3 when it is aborted.

import org.codehaus.groovy.control.CompilerConfiguration

/** How Jenkins tells a pipeline that it is aborted. */
class FlowInterruptedException extends InterruptedException {
    FlowInterruptedException() { super('aborted') }
}

class AbortException extends IOException {
    AbortException(String message) { super(message) }
}

/** The steps. */
class Steps {
    File temporary
    Map<String, Script> vars
    private List<Map<String, String>> overlays = []

    private Map<String, String> environment() {
        def all = new HashMap<String, String>(System.getenv())
        // On the controller and not in the environment of steps.
        all.remove('SECRET_TOKEN')
        overlays.each { all.putAll(it) }
        return all
    }

    /** Jenkins writes it down before it goes on; what cannot be written fails the build there. */
    private static void persist(Object... what) {
        what.each { if (!(it instanceof Closure)) new ObjectOutputStream(new ByteArrayOutputStream()).writeObject(it) }
    }

    Object sh(Map options) {
        persist(options)
        println "+ [${options.label ?: 'sh'}]"
        def file = File.createTempFile('script', '.sh', temporary)
        file.text = options.script
        def builder = new ProcessBuilder('/bin/sh', '-xe', file.path).directory(temporary)
        builder.environment().clear()
        builder.environment().putAll(environment())
        builder.redirectError(ProcessBuilder.Redirect.INHERIT)
        def process = builder.start()
        process.outputStream.close()
        def said = process.inputStream.text
        def status = process.waitFor()
        file.delete()
        if (!options.returnStdout) print(said)
        if (status != 0) throw new AbortException("script returned exit code ${status}")
        return options.returnStdout ? said : null
    }

    Object sh(String script) { sh([script: script]) }

    void withEnv(List<String> settings, Closure body) {
        persist(settings)
        def overlay = settings.collectEntries { it.split('=', 2) as List }
        within(overlay, body)
    }

    void withCredentials(List<Map> bindings, Closure body) {
        persist(bindings)
        def overlay = bindings.collectEntries {
            if (it.credentialsId != 'token') throw new AbortException("there is no credential ${it.credentialsId}")
            [it.variable, System.getenv('SECRET_TOKEN')]
        }
        within(overlay, body)
    }

    private void within(Map<String, String> overlay, Closure body) {
        overlays.push(overlay)
        try {
            body()
        } finally {
            overlays.pop()
        }
    }

    Map string(Map options) { options }

    void echo(Object text) { println text }

    void error(String text) { throw new AbortException(text) }

    boolean isUnix() { true }

    String pwd(Map options) { temporary.path }

    /** Somebody presses the button while the pipeline is here. */
    void abort() { throw new FlowInterruptedException() }

    Map getEnv() { environment() }
}

/** What Jenkins makes of a script: steps and library steps can be called by their names. */
abstract class PipelineScript extends Script {
    @Override
    Object invokeMethod(String name, Object arguments) {
        def steps = getBinding().getVariable('steps')
        def list = arguments as Object[]
        if (steps.metaClass.respondsTo(steps, name, list)) {
            return steps.invokeMethod(name, list)
        }
        if (steps.vars.containsKey(name)) {
            return steps.vars[name].invokeMethod('call', list)
        }
        return super.invokeMethod(name, arguments)
    }

    @Override
    Object getProperty(String name) {
        def steps = getBinding().getVariable('steps')
        if (name == 'env') return steps.env
        if (steps.vars.containsKey(name)) return steps.vars[name]
        return super.getProperty(name)
    }
}

def (folder, pipeline, temporary) = args
def steps = new Steps(temporary: new File(temporary), vars: [:])
def shell = new GroovyShell(
    getClass().classLoader,
    new Binding(steps: steps),
    new CompilerConfiguration(scriptBaseClass: PipelineScript.name)
)
new File(folder).eachFileMatch(~/.*\.groovy/) { file ->
    steps.vars[file.name - '.groovy'] = shell.parse(file)
}
try {
    shell.parse(new File(pipeline)).run()
} catch (FlowInterruptedException aborted) {
    println 'Aborted'
    System.exit(3)
} catch (IOException failed) {
    println "ERROR: ${failed.message}"
    System.exit(1)
}
