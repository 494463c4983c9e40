server    = true
bootstrap = true
node_name = " spaces "
