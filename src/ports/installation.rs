//! What a database must be before the program uses it: its encoding, its schema, and the namespace that it belongs to.

use async_trait::async_trait;

use super::error::StoreError;

/// The version of the schema, and the version that this program requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The last migration of the database, if there was one.
    pub found: Option<i64>,
    /// The last migration of this program.
    pub expected: i64,
}

/// A database as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// The name of the database.
    pub database: String,
    /// Its encoding.
    pub encoding: String,
    /// Whether it accepts no writes at present.
    pub read_only: bool,
    /// The version of its schema.
    pub schema: SchemaVersion,
    /// The namespace that it belongs to, once one is recorded.
    pub namespace: Option<String>,
}

/// Why the program cannot use a database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableDatabase {
    /// It cannot store every text.
    #[error(
        "database {database:?} has the encoding {encoding}, and this program requires UTF8; create another one with \
         `create database NAME encoding 'UTF8' template template0` and set database.url (or DATABASE_URL) to it"
    )]
    Encoding {
        /// Its name.
        database: String,
        /// Its encoding.
        encoding: String,
    },
    /// Its schema has another version.
    #[error("{0}")]
    Schema(SchemaVersion),
    /// Its URL leads to a connection pooler.
    #[error(
        "{setting} leads to a connection pooler such as PgBouncer, which {problem}; set database.session_url to a URL of \
         the server itself, or of a pool in session mode"
    )]
    Pooler {
        /// The setting that holds the URL.
        setting: &'static str,
        /// What the pooler does.
        problem: &'static str,
    },
    /// It belongs to another namespace.
    #[error(
        "database {database:?} belongs to the namespace {recorded:?}, and this process is configured with namespace = \
         {configured:?}; correct `namespace` or database.url. To rename the namespace, stop all processes and run \
         `allocation migrate --rename-namespace`"
    )]
    Namespace {
        /// Its name.
        database: String,
        /// The namespace that it belongs to.
        recorded: String,
        /// The namespace of this process.
        configured: String,
    },
}

/// A database of this program, for one namespace.
#[async_trait]
pub trait Installation: Send + Sync {
    /// Reads the state of the database.
    ///
    /// # Errors
    /// The database is unavailable.
    async fn state(&self) -> Result<DatabaseState, StoreError>;

    /// Records this namespace as the one that the database belongs to, unless one is recorded. Returns the recorded one.
    ///
    /// # Errors
    /// The database is unavailable.
    async fn claim(&self) -> Result<String, StoreError>;
}

impl DatabaseState {
    /// Whether the program can use the database for `namespace`, or for any if none is recorded.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn check(&self, namespace: &str) -> Result<(), UnusableDatabase> {
        self.check_encoding()?;
        if !self.schema.fits() {
            return Err(UnusableDatabase::Schema(self.schema));
        }
        self.check_namespace(namespace)
    }

    /// Whether the database can store every text.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_encoding(&self) -> Result<(), UnusableDatabase> {
        let (database, encoding) = (self.database.clone(), self.encoding.clone());
        if encoding == "UTF8" { Ok(()) } else { Err(UnusableDatabase::Encoding { database, encoding }) }
    }

    /// Whether the database belongs to no other namespace.
    ///
    /// # Errors
    /// It does.
    pub fn check_namespace(&self, namespace: &str) -> Result<(), UnusableDatabase> {
        match &self.namespace {
            Some(recorded) if recorded != namespace => Err(UnusableDatabase::Namespace {
                database: self.database.clone(),
                recorded: recorded.clone(),
                configured: namespace.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl SchemaVersion {
    /// Whether this program can use this schema.
    #[must_use]
    pub fn fits(self) -> bool {
        self.found == Some(self.expected)
    }
}

impl std::fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.found {
            Some(found) if found > self.expected => {
                write!(
                    f,
                    "the schema is at version {found}, this program requires {}: use a newer program",
                    self.expected
                )
            }
            Some(found) if found == self.expected => write!(f, "the schema is at version {found}"),
            Some(found) => {
                write!(f, "the schema is at version {found}, not {}: run `allocation migrate`", self.expected)
            }
            None => f.write_str("the database has no schema: run `allocation migrate`"),
        }
    }
}
