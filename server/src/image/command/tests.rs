use super::super::testing::write_image;
use super::*;

fn run_in(folder: &Path, command: ImageCommand) -> Result<Told, ImageCommandError> {
    let file = folder.join("config.toml");
    let text = format!(
        "state_dir = '{0}/state'\nimages_dir = '{0}/images'",
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = crate::config::load(Some(&file), Default::default()).unwrap();
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(run(&config, command, OffsetDateTime::UNIX_EPOCH, &stop))
}

fn list(folder: &Path) -> String {
    let told = run_in(
        folder,
        ImageCommand::List {
            format: ReportFormat::Text,
        },
    )
    .unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    told.data
        .lines()
        .skip(1)
        .map(words)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn from_import_to_gc() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_image(&folder.join("built"), "26");
    let source = folder.join("built");
    let told = run_in(folder, ImageCommand::Import { folder: source }).unwrap();
    let name = told.data.trim().to_owned();
    assert!(
        told.words.contains("a server that starts now uses it"),
        "{}",
        told.words
    );
    assert!(list(folder).starts_with(&format!("{name} 26 26.1.5 in use 1 MiB ")));
    let names = vec![name.clone()];
    let told = run_in(
        folder,
        ImageCommand::Verify {
            names: names.clone(),
        },
    )
    .unwrap();
    assert!(told.fault.is_none() && told.data.contains("as it was built"));

    std::fs::write(folder.join("images").join(&name).join("vmlinuz"), "vmlinuX").unwrap();
    let told = run_in(folder, ImageCommand::Verify { names: Vec::new() }).unwrap();
    assert!(
        told.data.contains("vmlinuz is not the file"),
        "{}",
        told.data
    );
    assert!(matches!(
        told.fault,
        Some(ImageCommandError::Damaged { damaged: 1, all: 1 })
    ));

    let told = run_in(folder, ImageCommand::Retire { name: name.clone() }).unwrap();
    assert!(told.words.contains("offered no more"), "{}", told.words);
    assert!(list(folder).contains("retired"));
    let gc = |dry_run| {
        run_in(folder, ImageCommand::Gc { keep: 2, dry_run })
            .unwrap()
            .words
    };
    assert_eq!(gc(true), format!("{name} would go: 1 MiB\n"));
    assert_eq!(gc(false), format!("{name} is gone: 1 MiB\n"));
    assert_eq!(gc(false), "there is nothing to clear away\n");
    assert_eq!(list(folder), "");
}

#[test]
fn a_damaged_one_is_told_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["a", "b"] {
        write_image(&folder.join("images").join(name), "26");
    }
    std::fs::write(folder.join("images/b/manifest.json"), "{}").unwrap();
    let lines = list(folder);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        lines[0].starts_with("a 26 26.1.5 in use 1 MiB "),
        "{lines:?}"
    );
    assert_eq!(lines[1..], ["b ? ? damaged ? ? ?"]);
    let format = ReportFormat::Json;
    let told = run_in(folder, ImageCommand::List { format }).unwrap().data;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told[0]["state"], "in_use");
    assert_eq!(told[1]["state"], "damaged");
    assert!(told[1]["fault"].as_str().unwrap().contains("manifest.json"));
    let told = run_in(folder, ImageCommand::Verify { names: Vec::new() }).unwrap();
    assert!(told.data.contains("a: as it was built"), "{}", told.data);
    let one_of_two = ImageCommandError::Damaged { damaged: 1, all: 2 };
    assert_eq!(told.fault.unwrap().to_string(), one_of_two.to_string());
    let gc = ImageCommand::Gc {
        keep: 1,
        dry_run: false,
    };
    let told = run_in(folder, gc).unwrap().words;
    assert!(told.starts_with("b stays"), "{told}");
    let name = "a".to_owned();
    run_in(folder, ImageCommand::Retire { name }).unwrap();
}

#[test]
fn names_and_faults_neither_drive_a_terminal_nor_forge_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let hostile = "x\u{1b}[31m\nb 26 in use";
    let image = folder.join("images").join(hostile);
    write_image(&image, "26");
    std::fs::write(
        image.join("manifest.sha256"),
        "\u{1b}[31mzz  manifest.json\n",
    )
    .unwrap();
    write_image(&folder.join("images/a\u{1b}[2J"), "26");
    let format = ReportFormat::Text;
    let gc = ImageCommand::Gc {
        keep: 1,
        dry_run: true,
    };
    for command in [
        ImageCommand::List { format },
        ImageCommand::Verify { names: Vec::new() },
        gc,
    ] {
        let Told { data, words, .. } = run_in(folder, command).unwrap();
        for text in [data, words] {
            assert!(
                !text.contains('\u{1b}') && !text.contains("\nb 26"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_name_is_no_way_to_somewhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_image(&folder.join("outside"), "26");
    write_image(&folder.join("images/a"), "26");
    for name in [
        "../outside",
        "b",
        "",
        ".",
        "..",
        "a/../../outside",
        "/etc",
        "\u{1b}[2J",
    ] {
        let name = name.to_owned();
        for command in [
            ImageCommand::Retire { name: name.clone() },
            ImageCommand::Verify {
                names: vec![name.clone()],
            },
        ] {
            let error = run_in(folder, command).unwrap_err();
            assert!(
                matches!(error, ImageCommandError::NoSuch { .. }),
                "{name}: {error:?}"
            );
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 3);
}
