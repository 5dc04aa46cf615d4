"""Embeddings of whole collections, in folders that a killed run leaves ready to be continued."""
