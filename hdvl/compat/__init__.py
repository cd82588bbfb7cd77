"""What changes other libraries, one file a library: each change with its reason, and a test that notices
when the library changes. Nothing happens at import, and what is changed for all is put back."""
