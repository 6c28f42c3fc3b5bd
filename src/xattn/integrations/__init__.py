"""xattn for models of other libraries; each folder is one library, whose package it imports only when it is used."""
