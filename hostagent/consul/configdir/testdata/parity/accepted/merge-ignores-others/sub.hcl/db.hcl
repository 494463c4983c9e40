service {
  name = "db"
  port = 5432
}
