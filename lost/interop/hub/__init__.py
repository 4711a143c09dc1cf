"""Models of the Hugging Face hub, by its own library: downloaded to its cache, and uploaded.

The library itself finds the hub (`HF_ENDPOINT`), the cache (`HF_HOME`) and the token (`HF_TOKEN`, or `hf auth login`),
which is never seen here.
"""
