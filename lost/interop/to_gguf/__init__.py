"""Export for llama.cpp and what is built on it: one GGUF file, and a Modelfile for Ollama."""
