"""What holds for all tests: nothing reaches the Hub, and nothing is written into the user's cache."""

import os
import tempfile


# Read by the libraries when they are imported, hence before anything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.environ.get("ALGODISTILL_TEST_HF_HOME") or tempfile.mkdtemp(prefix="algodistill-tests-")
os.environ["MPLBACKEND"] = "agg"
