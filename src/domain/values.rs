//! Validated values: a value of one of these types is valid and need not be checked again.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The maximum length of an identifier, in characters.
const MAX_TEXT: usize = 255;
/// The largest quantity: the maximum of a Postgres `integer`, so that no sum in a row overflows.
const MAX_QUANTITY: u32 = i32::MAX as u32;

/// Why a value is invalid. The text follows the field's name and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Empty, blank or too long.
    #[error("must be 1 to {MAX_TEXT} characters, not blank")]
    Text,
    /// Contains U+0000, which the database cannot store.
    #[error("must not contain a NUL character")]
    Nul,
    /// Not a whole number within the range.
    #[error("must be a whole number from {least} to {MAX_QUANTITY}")]
    Number {
        /// The smallest valid number.
        least: u32,
    },
}

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A text of 1 to 255 characters that are not all blank.
            ///
            /// # Errors
            /// [`InvalidValue::Text`] or [`InvalidValue::Nul`].
            pub fn new(text: &str) -> Result<Self, InvalidValue> {
                checked_text(text).map(|text| Self(text.into()))
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor).map(Self)
            }
        }
    };
}

text_value!(
    /// A stock-keeping unit: the identity of a product.
    Sku
);
text_value!(
    /// The id of an order; with a [`Sku`] it identifies one line.
    OrderId
);
text_value!(
    /// The unique reference of a batch.
    BatchRef
);

fn checked_text(text: &str) -> Result<&str, InvalidValue> {
    if text.contains('\0') {
        return Err(InvalidValue::Nul);
    }
    // A text has at most as many characters as bytes: the characters of a short text need not be counted.
    let too_long = text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT;
    if too_long || text.trim().is_empty() { Err(InvalidValue::Text) } else { Ok(text) }
}

struct TextVisitor;

impl de::Visitor<'_> for TextVisitor {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of 1 to {MAX_TEXT} characters")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        checked_text(text).map(Into::into).map_err(E::custom)
    }
}

macro_rules! number_value {
    ($(#[$doc:meta])* $name:ident, $least:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The smallest valid number.
            pub const MIN: u32 = $least;

            /// A number from [`Self::MIN`] to 2,147,483,647.
            ///
            /// # Errors
            /// [`InvalidValue::Number`].
            pub fn new(number: impl TryInto<u32>) -> Result<Self, InvalidValue> {
                match number.try_into() {
                    Ok(number) if (Self::MIN..=MAX_QUANTITY).contains(&number) => Ok(Self(number)),
                    _ => Err(InvalidValue::Number { least: Self::MIN }),
                }
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidValue;

            fn from_str(digits: &str) -> Result<Self, InvalidValue> {
                Self::new(whole_number(digits).unwrap_or(u64::MAX))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = deserializer.deserialize_any(NumberVisitor { least: Self::MIN })?;
                Self::new(number).map_err(de::Error::custom)
            }
        }
    };
}

number_value!(
    /// The quantity of an order line: at least 1.
    Quantity, 1
);
number_value!(
    /// The purchased quantity of a batch: at least 0.
    StockQuantity, 0
);

/// Digits only: no sign, blank or exponent.
fn whole_number(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

struct NumberVisitor {
    least: u32,
}

impl de::Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {MAX_QUANTITY}", self.least)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, _negative: i64) -> Result<u64, E> {
        Err(E::custom(InvalidValue::Number { least: self.least }))
    }

    /// Some upstream systems send numbers as text.
    fn visit_str<E: de::Error>(self, digits: &str) -> Result<u64, E> {
        whole_number(digits).ok_or_else(|| E::custom(InvalidValue::Number { least: self.least }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_1_to_255_characters_and_is_not_blank() {
        assert_eq!(Sku::new("").unwrap_err(), InvalidValue::Text);
        assert_eq!(Sku::new(" \t").unwrap_err(), InvalidValue::Text);
        assert_eq!(Sku::new(&"x".repeat(256)).unwrap_err(), InvalidValue::Text);
        assert_eq!(Sku::new("A\0B").unwrap_err(), InvalidValue::Nul);
        assert_eq!(Sku::new(&"ü".repeat(255)).unwrap().as_str().chars().count(), 255);
    }

    #[test]
    fn a_quantity_may_be_a_string_of_digits() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json).map(Quantity::get).ok();
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("\"7\""), Some(7));
        for invalid in
            ["0", "-1", "1.0", "1e3", "true", "null", "\"\"", "\" 7\"", "\"+7\"", "\"7.0\"", "2147483648"]
        {
            assert_eq!(read(invalid), None, "{invalid}");
        }
        assert_eq!(serde_json::from_str::<StockQuantity>("0").unwrap().get(), 0);
        assert!(serde_json::from_str::<StockQuantity>("-1").is_err());
    }

    #[test]
    fn the_error_for_a_value_of_another_type_says_what_is_expected() {
        let text = serde_json::from_str::<Sku>("true").unwrap_err().to_string();
        assert!(text.contains("a string of 1 to 255 characters"), "{text}");
        let number = serde_json::from_str::<Quantity>("true").unwrap_err().to_string();
        assert!(number.contains("a whole number from 1 to 2147483647"), "{number}");
    }
}
