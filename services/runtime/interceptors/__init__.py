"""What happens around every RPC, one concern per file; `chain` puts them in order for all four call shapes."""
