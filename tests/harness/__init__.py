"""What all tests share. Modules here hold no tests and import no test."""
