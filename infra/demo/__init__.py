"""The offline demo: drawn media whose truth is known, and two small real models that read them."""
