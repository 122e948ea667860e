"""The generator belongs to the workers: it holds no tests."""

collect_ignore = ["archives.py", "data_files.py", "generate.py", "programs.py", "results.py", "worker.py"]
