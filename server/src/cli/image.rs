//! Arguments of `remote-dockerd image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ReportFormat;
use crate::image::gc::GENERATIONS;

/// Options of `image`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImageArgs {
    /// What to do with images
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What is done with images. All of it concerns the folder `images_dir`; a server takes notice when it
/// starts.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ImageCommand {
    /// Copy an image that `images/build.sh` built into the folder of the images, whole and checked or not at
    /// all; to be tried out with `image test` next
    Import {
        /// Its folder
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// List all images, and which of them new machines are made of
    List {
        /// What to print
        #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
        format: ReportFormat,
    },
    /// Read every byte of images and compare it with what was built
    Verify {
        /// Which; without any, all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Try an image out with a machine of its own: one that passes is used from the next start of the server
    /// on, also one that was retired
    Test {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Use an image no more, from the next start of the server on; machines and leases that there are go on
    Retire {
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove images that are retired or older than the last ones of their engine, as far as no server, no
    /// template and no machine uses them
    Gc {
        /// How many of each engine stay
        #[arg(long, value_name = "COUNT", default_value_t = GENERATIONS, value_parser = at_least_one)]
        keep: usize,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("the image in use stays: at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("it is a number of images, such as 2".to_owned()),
    }
}
