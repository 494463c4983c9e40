ports { server = 0 }
