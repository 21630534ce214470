//! A docker context for a lease, and a builder of buildx: how they are made, and how all is put back.
//!
//! What is going to be made is noted beside the keys before it is, so that `stop` can put it back
//! whatever happened in between. A context that does not say that it is of this lease is left alone.

use remote_docker_api::LeaseId;
use serde::{Deserialize, Serialize};

use super::{DockerError, call, ok};

/// What is made for a lease in docker's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The context that leads to the lease.
    pub(crate) context: String,
    /// The one that is current now, if the new one is to become it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead_of: Option<String>,
    /// The builder, with BuildKit in a container of its own behind that context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) builder: Option<String>,
}

impl Plan {
    /// What to make for these names, if any is given. Nothing is changed.
    ///
    /// # Errors
    /// There is no docker CLI, or no buildx, or one of the names is taken.
    pub(crate) async fn new(
        context: Option<&str>,
        builder: Option<&str>,
    ) -> Result<Option<Self>, DockerError> {
        let plan = match (context, builder) {
            (None, None) => return Ok(None),
            (Some(context), builder) => Self {
                context: context.to_owned(),
                instead_of: Some(current_context().await?),
                builder: builder.map(str::to_owned),
            },
            // buildx takes no name that a context has.
            (None, Some(builder)) => Self {
                context: format!("{builder}-context"),
                instead_of: None,
                builder: Some(builder.to_owned()),
            },
        };
        if call(&["context", "inspect", &plan.context]).await?.success {
            return Err(exists("context", &plan.context));
        }
        if let Some(builder) = &plan.builder {
            ok(&["buildx", "version"]).await?;
            if call(&["buildx", "inspect", builder]).await?.success {
                return Err(exists("builder", builder));
            }
        }
        Ok(Some(plan))
    }

    /// Makes it all for the daemon at `host`, with the keys in the folder `keys`.
    ///
    /// # Errors
    /// What could not be made; the rest may be there, for [`Self::undo`].
    pub(crate) async fn carry_out(
        &self,
        lease: LeaseId,
        host: &str,
        keys: &str,
    ) -> Result<(), DockerError> {
        let endpoint = format!(
            "host={host},{},{},{}",
            field(&format!("ca={keys}/ca.pem")),
            field(&format!("cert={keys}/cert.pem")),
            field(&format!("key={keys}/key.pem")),
        );
        let description = description(lease);
        let create = ["context", "create", &self.context, "--description"];
        let args = [&create[..], &[&description, "--docker", &endpoint]].concat();
        ok(&args).await?;
        if self.instead_of.is_some() {
            ok(&["context", "use", &self.context]).await?;
        }
        if let Some(builder) = &self.builder {
            let create = ["buildx", "create", "--name", builder];
            let args = [
                &create[..],
                &["--driver", "docker-container", &self.context],
            ]
            .concat();
            ok(&args).await?;
        }
        Ok(())
    }

    /// Puts everything back; right for whatever of it was made. All of it is tried, and what could not be
    /// done is given.
    pub(crate) async fn undo(&self, lease: LeaseId) -> Vec<DockerError> {
        let mut failures = Vec::new();
        if let Err(error) = self.remove_builder().await {
            failures.push(error);
        }
        if let Err(error) = self.remove_context(lease).await {
            failures.push(error);
        }
        failures
    }

    async fn remove_builder(&self) -> Result<(), DockerError> {
        let Some(builder) = &self.builder else {
            return Ok(());
        };
        if call(&["buildx", "inspect", builder]).await?.success {
            // Its container goes with the machine.
            ok(&["buildx", "rm", "--keep-daemon", builder]).await?;
        }
        Ok(())
    }

    async fn remove_context(&self, lease: LeaseId) -> Result<(), DockerError> {
        let found = call(&["context", "inspect", &self.context]).await?;
        if !found.success || !is_described(&found.stdout, &description(lease)) {
            return Ok(());
        }
        if let Some(before) = &self.instead_of
            && current_context().await? == self.context
        {
            let back = call(&["context", "use", before]).await?;
            if !back.success {
                // It was removed meanwhile.
                ok(&["context", "use", "default"]).await?;
            }
        }
        ok(&["context", "rm", "--force", &self.context]).await?;
        Ok(())
    }
}

async fn current_context() -> Result<String, DockerError> {
    ok(&["context", "inspect", "--format", "{{.Name}}"]).await
}

fn exists(what: &'static str, name: &str) -> DockerError {
    DockerError::Exists {
        what,
        name: name.to_owned(),
    }
}

fn description(lease: LeaseId) -> String {
    format!("setup-remote-docker, lease {lease}")
}

/// Whether what `docker context inspect` prints is about a context with this description. Read from JSON, as
/// its templates name the same thing differently from version to version.
fn is_described(inspected: &str, description: &str) -> bool {
    let contexts: serde_json::Value = serde_json::from_str(inspected).unwrap_or_default();
    contexts[0]["Metadata"]["Description"] == description
}

/// The option is a line of comma-separated values.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
