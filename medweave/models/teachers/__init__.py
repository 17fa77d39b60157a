"""Teachers: the catalogue of public models, what their licences ask, and one file a family of file formats."""
