"""Tables of pictures: parquet files and the Hub."""
