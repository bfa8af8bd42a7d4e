#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spotkeep_fuzz::metadata::check(bytes));
