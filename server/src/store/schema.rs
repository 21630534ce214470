//! The tables and how they came to be. A migration that was released is never edited: sqlx compares
//! its checksum with the one in the database.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType, Migrator};
use sqlx::sqlite::SqlitePool;

use super::StoreError;

/// Version, name, text.
const MIGRATIONS: [(i64, &str, &str); 8] = [
    (
        1,
        "leases and vms",
        include_str!("migrations/0001_leases_and_vms.sql"),
    ),
    (
        2,
        "life of a lease",
        include_str!("migrations/0002_life_of_a_lease.sql"),
    ),
    (
        3,
        "what lives is found at once",
        include_str!("migrations/0003_what_lives_is_found_at_once.sql"),
    ),
    (4, "ssh", include_str!("migrations/0004_ssh.sql")),
    (5, "egress", include_str!("migrations/0005_egress.sql")),
    (6, "audit", include_str!("migrations/0006_audit.sql")),
    (
        7,
        "who called",
        include_str!("migrations/0007_who_called.sql"),
    ),
    (8, "troubles", include_str!("migrations/0008_troubles.sql")),
];

/// The migrations that are compiled in.
#[derive(Debug)]
struct Embedded;

impl MigrationSource<'static> for Embedded {
    fn resolve(
        self,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send + 'static>> {
        let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
            let (name, sql) = (Cow::Borrowed(name), Cow::Borrowed(sql));
            Migration::new(version, name, MigrationType::Simple, sql, false)
        });
        Box::pin(std::future::ready(Ok(migrations.collect())))
    }
}

/// Brings the tables up to what this program expects.
///
/// # Errors
/// When the database was made by a newer program, or is none.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    Migrator::new(Embedded).await?.run(pool).await?;
    Ok(())
}
