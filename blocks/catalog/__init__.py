"""The catalog's Delta tables: publishing, maintenance, SQL views, upload manifests."""
