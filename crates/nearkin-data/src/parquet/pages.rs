//! Pages whose headers promise no more than they hold.
//!
//! The header of a dictionary page says how many values the page has, and the decoder makes room for all of
//! them before it reads one. A damaged header of a few bytes would take gigabytes.

use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result as Parsed};

/// Refuses dictionary pages with fewer bytes than values.
pub(super) struct SoundPages(pub(super) Box<dyn PageReader>);

fn checked(page: Option<Page>) -> Parsed<Option<Page>> {
    match page {
        // Only booleans take less than a byte, and they have no dictionary.
        Some(Page::DictionaryPage { buf, num_values, .. }) if num_values as usize > buf.len() => {
            let reason = format!(
                "a dictionary page of {} bytes says that it has {num_values} values",
                buf.len()
            );
            Err(ParquetError::General(reason))
        }
        page => Ok(page),
    }
}

impl Iterator for SoundPages {
    type Item = Parsed<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for SoundPages {
    fn get_next_page(&mut self) -> Parsed<Option<Page>> {
        checked(self.0.get_next_page()?)
    }

    fn peek_next_page(&mut self) -> Parsed<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Parsed<()> {
        self.0.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.0.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Parsed<Option<Page>> {
        checked(self.0.take_deferred_dictionary()?)
    }

    fn at_record_boundary(&mut self) -> Parsed<bool> {
        self.0.at_record_boundary()
    }
}

#[cfg(test)]
mod tests {
    use ::parquet::basic::Encoding;
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_dictionary_of_more_values_than_bytes_is_refused() {
        let page = |num_values| {
            let (buf, encoding) = (Bytes::from_static(&[0; 8]), Encoding::PLAIN);
            checked(Some(Page::DictionaryPage { buf, num_values, encoding, is_sorted: false }))
        };
        assert!(page(8).is_ok() && checked(None).is_ok());
        let message = page(u32::MAX).unwrap_err().to_string();
        assert!(message.contains("of 8 bytes says that it has 4294967295 values"), "{message}");
    }
}
