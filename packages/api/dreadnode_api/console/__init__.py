"""The web console: pages for people, rendered on the server and served at `/`.

How to add a console page:

1. Write `console/NAME.py` with a `router = APIRouter()`. A route takes a page of the role that it
   needs, calls the service functions that the API's route calls, and renders a template:

       @router.get("/ws/{ws}/catalog")
       async def catalog(page: ReaderPage, session: ReadSession) -> Response:
           return page.render("catalog.html", models=...)

   `page.scope` is the `WorkspaceScope` that service functions take, `page.caller` the caller. The
   pages are `ReaderPage`, `MemberPage` and `AdminPage` (in a workspace) and `AnyPage` (without
   one); see `deps.py`. Raise `ApiError`s as anywhere: `errors.py` shows their sentence in the
   layout, or as a fragment if htmx asked. A POST route ends with `redirect(page.url("jobs"))`.
2. Write `templates/NAME.html`, which extends `base.html` and fills the blocks `title` and `main`;
   `{% import "macros.html" as ui %}` has chips, times, form fields and empty states. Scripts and
   styles are files in `static/`: the policy of the pages forbids inline ones. Load a module with
   `<script type="module" src="{{ static('NAME.js') }}"></script>` in the block `scripts`.
3. Add the module to `PAGES` in `console.py`, and to `NAVIGATION` if it has an entry in the menu.

Every form contains `{{ ui.form_token(form_token) }}`, and htmx sends the same value by itself;
`console.install` gives all routes the check of it. Unknown query parameters are refused, so declare
each one; `Filter` in `deps.py` takes the empty value of a form's field that is not filled in.
"""
