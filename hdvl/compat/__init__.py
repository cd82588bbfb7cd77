"""Changes of other libraries, one file for each library.

Each change has a reason and a test that fails when the library makes it unnecessary. Importing these
modules changes nothing, and changes of global state are undone.
"""
