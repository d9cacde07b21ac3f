"""The offline demo: drawn media whose truth is known, and a small real model that reads them."""
