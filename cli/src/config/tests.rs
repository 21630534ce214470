use super::*;

fn in_folder(config: &str) -> (tempfile::TempDir, Environment) {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("setup-remote-docker");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("config.toml"), config).unwrap();
    let environment = Environment {
        config_home: Some(folder.path().to_owned()),
        ..Environment::default()
    };
    (folder, environment)
}

fn of_lease() -> LeaseAccess {
    LeaseAccess {
        url: Some("http://lease".to_owned()),
        token: Token::of_lease("of-lease"),
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_folder, mut environment) = in_folder(
        "url = 'http://file'\nallow_plaintext = true\ntoken = 'from-file'\nttl = '90s'\n",
    );
    let mut flags = GlobalArgs::default();

    let settings = load(&flags, &environment, &LeaseAccess::default()).unwrap();
    assert_eq!(settings.server.host(), "file");
    assert_eq!(settings.token.header_value(), "Bearer from-file");
    assert_eq!(settings.ttl, Some(Duration::from_secs(90)));
    assert_eq!(settings.wait, DEFAULT_WAIT);

    environment.url = Some("http://environment".to_owned());
    environment.token = Some(Secret("from-environment".to_owned()));
    let settings = load(&flags, &environment, &LeaseAccess::default()).unwrap();
    assert_eq!(settings.server.host(), "environment");
    assert_eq!(settings.token.header_value(), "Bearer from-environment");

    // The server that made the lease is the only one that knows it …
    let settings = load(&flags, &environment, &of_lease()).unwrap();
    assert_eq!(settings.server.host(), "lease");
    assert_eq!(settings.token.header_value(), "Bearer of-lease");

    // … but a flag is the user's own word.
    flags.url = Some("http://flag".to_owned());
    flags.token = Some("from-flag".to_owned());
    let settings = load(&flags, &environment, &of_lease()).unwrap();
    assert_eq!(settings.server.host(), "flag");
    assert_eq!(settings.token.header_value(), "Bearer from-flag");
}

#[test]
fn a_faulty_file_is_told_by_line_and_without_the_token() {
    for (config, expected) in [
        ("url = 'http://a'\nurll = 'x'", "line 2"),
        ("token = 'sesame' x", "line 1"),
        ("\n\ntoken = 'sesame'\ntoken_file = 'x'", "both"),
        ("ttl = '5 parsecs'", "line 1"),
        ("ttl = 5", "line 1"),
    ] {
        let (_folder, environment) = in_folder(config);
        let error = load(
            &GlobalArgs::default(),
            &environment,
            &LeaseAccess::default(),
        )
        .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("sesame"), "{text}");
    }
}

#[test]
fn a_file_that_is_not_there_matters_only_when_it_was_named() {
    let environment = Environment {
        home: Some(PathBuf::from("/nonexistent")),
        token: Some(Secret("t".to_owned())),
        ..Environment::default()
    };
    let mut flags = GlobalArgs::default();
    assert!(load(&flags, &environment, &LeaseAccess::default()).is_ok());
    flags.config = Some(PathBuf::from("/nonexistent/config.toml"));
    assert!(matches!(
        load(&flags, &environment, &LeaseAccess::default()),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn a_token_that_cannot_stand_in_a_header_is_refused_and_not_shown() {
    for token in [
        "",
        "two words",
        "line\nbreak",
        "caf\u{e9}",
        &"x".repeat(9000),
    ] {
        let flags = GlobalArgs {
            token: Some(token.to_owned()),
            ..GlobalArgs::default()
        };
        let error = load(&flags, &Environment::default(), &LeaseAccess::default()).unwrap_err();
        assert!(matches!(error, ConfigError::BadToken { .. }), "{error:?}");
        assert!(token.is_empty() || !format!("{error} {error:?}").contains(token));
    }
    assert!(matches!(
        load(
            &GlobalArgs::default(),
            &Environment::default(),
            &LeaseAccess::default()
        ),
        Err(ConfigError::NoToken)
    ));
}

#[test]
fn a_token_in_a_file_that_others_may_read_is_worth_a_warning() {
    let (folder, environment) = in_folder("token = 'sesame'");
    let path = folder.path().join("setup-remote-docker/config.toml");
    for (mode, warnings) in [(0o644, 1), (0o640, 1), (0o600, 0)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let settings = load(
            &GlobalArgs::default(),
            &environment,
            &LeaseAccess::default(),
        )
        .unwrap();
        assert_eq!(settings.warnings.len(), warnings, "{mode:o}");
    }
}

#[test]
fn a_token_file_may_end_with_a_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "sesame\n").unwrap();
    let mut flags = GlobalArgs {
        token_file: Some(path.clone()),
        ..GlobalArgs::default()
    };
    let settings = load(&flags, &Environment::default(), &LeaseAccess::default()).unwrap();
    assert_eq!(settings.token.header_value(), "Bearer sesame");

    fs::write(&path, "x".repeat(100_000)).unwrap();
    assert!(matches!(
        load(&flags, &Environment::default(), &LeaseAccess::default()),
        Err(ConfigError::Read { .. })
    ));
    flags.token_file = Some(PathBuf::from("/nonexistent"));
    assert!(load(&flags, &Environment::default(), &LeaseAccess::default()).is_err());
}
