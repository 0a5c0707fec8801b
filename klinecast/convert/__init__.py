"""The only seam between protobuf and the types of klinecast; requests are validated here, all fields at once."""
