"""Episodes on their way out of a run and into one: ATIF, OpenAI messages, Inspect logs, a page to read.

It reads and writes what a run stored. It plays nothing, trains nothing, and knows no tokenizer but by its file.
"""
