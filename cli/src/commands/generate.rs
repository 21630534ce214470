//! `completions` and `man`: what is made from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;

use super::print;
use crate::args::{CommandLine, CompletionsArgs, ManArgs};
use crate::error::CliError;

const NAME: &str = "setup-remote-docker";

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    // clap_complete 4.6 names bash's cases after `setup remote docker` where a program's name has
    // hyphens, and then finds none of them.
    let script = script.replace(
        "setup__subcmd__remote__subcmd__docker",
        "setup__remote__docker",
    );
    print(&script)?;
    Ok(0)
}

pub(super) fn man(args: &ManArgs) -> Result<u8, CliError> {
    let mut command = CommandLine::command().disable_help_subcommand(true);
    // Gives each command the names and the global options that its page shows.
    command.build();
    let written = fs::create_dir_all(&args.folder).and_then(|()| pages(&command, &args.folder));
    written.map_err(|source| CliError::Pages {
        folder: args.folder.clone(),
        source,
    })?;
    Ok(0)
}

fn pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let page = |command: &clap::Command, name: &str| {
        let man = clap_mangen::Man::new(command.clone())
            .title(name)
            .source(concat!("setup-remote-docker ", env!("CARGO_PKG_VERSION")));
        let mut text = Vec::new();
        man.render(&mut text)?;
        fs::write(folder.join(format!("{name}.1")), text)
    };
    page(command, NAME)?;
    for command in command.get_subcommands() {
        page(command, &format!("{NAME}-{}", command.get_name()))?;
    }
    Ok(())
}
